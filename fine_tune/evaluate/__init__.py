"""What a trained model is worth, without the coder."""
