"""Energy: the operations of a network counted layer by layer from what really ran, and what they would cost.

`count` counts, `estimate` does so for a run (the verb ``affuse energy``), `tables` writes it for a reader.
"""
