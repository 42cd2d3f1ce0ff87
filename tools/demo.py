"""`make demo`: a real scan goes through both models and comes back, the same bytes, in separate processes."""

from __future__ import annotations

import filecmp
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from medzip.bench.codecs import JPEG_XL
from medzip.bench.table import Row, render

ROOT = Path(__file__).resolve().parents[1]
SCAN = ROOT / "sample_data" / "mr_head_6_slices.nii"
BYTES_PER_SAMPLE = 2

NEXT = """\
What to try next
  medzip compress SCAN                      your own NIfTI or DICOM file or folder, default preset: SCAN.mdz
  medzip verify SCAN.mdz --against SCAN     prove it again, any time
  medzip decompress SCAN.mdz -o FOLDER      get it back, byte for byte
  medzip bench SCAN                         the table above for your scans
  medzip doctor                             check this installation
The command is .venv/bin/medzip; README.md and docs/ tell the rest."""


def medzip(*arguments: str | Path) -> str:
    """Run a command in a process of its own, show what is run, and return what it printed; exit where it fails."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ medzip {' '.join(words)}", flush=True)
    result = subprocess.run([sys.executable, "-m", "medzip", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        sys.exit(result.returncode)
    return result.stdout.rstrip()


def table(made: dict[str, Any], restored: dict[str, Any]) -> str:
    """The table of `medzip bench` for the scan, with a row for the archive that was just made: another two passes of the
    language model would say nothing new. Half of the seconds of `made` went into decoding, to verify: both ways are one loop."""
    rows = [Row(**row) for row in json.loads(medzip("bench", SCAN, "--json"))["rows"]]
    reference = next(row.bytes for row in rows if row.codec == JPEG_XL)
    megabytes = made["samples"] * BYTES_PER_SAMPLE / 1e6
    rows.append(
        Row(
            codec="medzip llm",
            bytes=made["archive_bytes"],
            bpsp=8 * made["archive_bytes"] / made["samples"],
            ratio_to_jpeg_xl=made["archive_bytes"] / reference if reference else None,
            encode_mb_s=2 * megabytes / made["seconds"],
            decode_mb_s=megabytes / restored["seconds"],
            note=f"{made['model_share']:.0%} of the voxels by the model",
        )
    )
    return render(rows)


def prove(preset: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compress the scan, verify it in another process, bring it back in a third, compare; what was told on the way."""
    archive, back = folder / f"{preset}.mdz", folder / preset
    made = json.loads(medzip("compress", SCAN, "-o", archive, "--preset", preset, "--json"))
    print(f"{made['original_bytes']:,} -> {made['archive_bytes']:,} bytes, verified by decoding, {made['seconds']:.1f} s")
    print(f"{made['model_share']:.1%} of the voxels were coded by the model of preset {preset}")
    if not made["model_share"]:
        sys.exit("the model coded nothing: every chunk fell back to another codec")
    print(medzip("verify", archive, "--against", SCAN))
    restored = json.loads(medzip("decompress", archive, "-o", back, "--json"))
    if not filecmp.cmp(SCAN, back / SCAN.name, shallow=False):
        sys.exit(f"{SCAN.name}: the restored file differs from the original")
    print(f"cmp {SCAN.name}: the same bytes")
    return made, restored


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="medzip-demo-") as folder:
        print(f"{SCAN.name}: a real MR scan of a head, {SCAN.stat().st_size:,} bytes")
        print("\nThe default preset, a network in integers; its first use after an installation waits for a compiler.", end="")
        prove("default", Path(folder))
        print("\nThe language model, which takes its time.", end="")
        print(table(*prove("llm", Path(folder))))
    print(f"\n{NEXT}")


if __name__ == "__main__":
    main()
