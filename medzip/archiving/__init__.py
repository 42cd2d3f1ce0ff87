"""Whole archives: a tree of studies into a folder of archives with a ledger, and back; above `medzip.pipeline`.

walk -> ledger -> jobs in worker processes -> archives under keyed names -> ledger, SHA256SUMS, audit
"""
