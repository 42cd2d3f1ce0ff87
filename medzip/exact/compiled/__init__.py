"""Machine code made by numba for the steps that decide the speed; everything here also exists in plain numpy."""
