"""CRC-32C, the checksum of every byte of an archive.

Castagnoli's polynomial 0x1EDC6F41, reflected, initial value and final XOR 0xFFFFFFFF (RFC 3720, appendix B.4):
the nine bytes `123456789` give 0xE3069283. It finds every burst of up to 32 bits.
"""

import google_crc32c


def crc32c(data: bytes, value: int = 0) -> int:
    """CRC-32C of `data`, or of everything that gave `value` followed by `data`."""
    result: int = google_crc32c.extend(value, data)
    return result
