"""The values that cross between layers: frozen, keyword-only, checked when built.

Durations are in seconds and end in _s; instants are on time.monotonic()'s clock
and end in _at_s. None means "not set", never -1 or 0.
"""

from realtime_serve.types.memory_share import MemoryShare as MemoryShare
from realtime_serve.types.progress import Loading as Loading
from realtime_serve.types.progress import Prefilling as Prefilling
from realtime_serve.types.progress import Queued as Queued
from realtime_serve.types.progress import StreamProgress as StreamProgress
from realtime_serve.types.requests import MAX_SEED as MAX_SEED
from realtime_serve.types.requests import MAX_STOP_STRING_CHARS as MAX_STOP_STRING_CHARS
from realtime_serve.types.requests import MAX_STOP_STRINGS as MAX_STOP_STRINGS
from realtime_serve.types.requests import MAX_STOP_TOKEN_IDS as MAX_STOP_TOKEN_IDS
from realtime_serve.types.requests import FinishReason as FinishReason
from realtime_serve.types.requests import InferenceRequest as InferenceRequest
from realtime_serve.types.requests import InferenceResponse as InferenceResponse
from realtime_serve.types.requests import RequestPriority as RequestPriority
from realtime_serve.types.requests import SamplingParams as SamplingParams
from realtime_serve.types.requests import StreamToken as StreamToken
from realtime_serve.types.requests import Usage as Usage
from realtime_serve.types.settings import ACTIVATION_DTYPES as ACTIVATION_DTYPES
from realtime_serve.types.settings import CPU_LEVELS as CPU_LEVELS
from realtime_serve.types.settings import DEVICES as DEVICES
from realtime_serve.types.settings import DTYPES as DTYPES
from realtime_serve.types.settings import HALF_CLOSES as HALF_CLOSES
from realtime_serve.types.settings import KV_CACHE_DTYPES as KV_CACHE_DTYPES
from realtime_serve.types.settings import MAX_BATCH_TOKENS as MAX_BATCH_TOKENS
from realtime_serve.types.settings import MAX_QUEUE_DEPTH as MAX_QUEUE_DEPTH
from realtime_serve.types.settings import MAX_RING_CAPACITY as MAX_RING_CAPACITY
from realtime_serve.types.settings import MAX_SPECULATIVE_TOKENS as MAX_SPECULATIVE_TOKENS
from realtime_serve.types.settings import NO_CACHE_DIR as NO_CACHE_DIR
from realtime_serve.types.settings import SLOW_READER_POLICIES as SLOW_READER_POLICIES
from realtime_serve.types.settings import ActivationDType as ActivationDType
from realtime_serve.types.settings import BatchConfig as BatchConfig
from realtime_serve.types.settings import CPULevel as CPULevel
from realtime_serve.types.settings import Device as Device
from realtime_serve.types.settings import DType as DType
from realtime_serve.types.settings import HalfClose as HalfClose
from realtime_serve.types.settings import KVCacheDType as KVCacheDType
from realtime_serve.types.settings import ModelConfig as ModelConfig
from realtime_serve.types.settings import ServerConfig as ServerConfig
from realtime_serve.types.settings import SlowReaderPolicy as SlowReaderPolicy
from realtime_serve.types.size_text import size_text as size_text
