"""What lies around a source file: compressors whose content, not whose bytes, is worth coding."""
