"""`medzip gateway`: DICOM comes in over the network, is archived by `medzip.archiving`, and is found and given back from there.

config -> service -> dimse, web (in) -> spool -> archiver -> store
                  -> dimse, web (out) <- retrieval <- store
"""
