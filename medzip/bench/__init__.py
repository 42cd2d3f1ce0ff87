"""Other lossless codecs, and the table that sets medzip beside them: what `medzip bench` prints."""
