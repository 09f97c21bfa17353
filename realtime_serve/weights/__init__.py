"""Files to tensors: what a checkpoint holds, whatever its format, and the packed form of it.

Nothing here logs or starts a thread: the inference thread reads weights. What a person
should know is collected in `Checkpoint.notices`.
"""

from realtime_serve.weights.checkpoint import Checkpoint as Checkpoint
from realtime_serve.weights.checkpoint import open_checkpoint as open_checkpoint
from realtime_serve.weights.stored_tensor import StoredTensor as StoredTensor
