"""The networks: what one step computes, from token ids to logits.

Nothing is imported here: the native network needs no torch, the others do.
"""
