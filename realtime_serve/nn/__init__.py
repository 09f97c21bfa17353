"""The networks: what one step computes, from token ids to logits."""

from realtime_serve.nn.interface import CausalLM as CausalLM
from realtime_serve.nn.interface import ForwardBatch as ForwardBatch
from realtime_serve.nn.interface import KVTensors as KVTensors
from realtime_serve.nn.interface import Span as Span
from realtime_serve.nn.llama import LlamaForCausalLM as LlamaForCausalLM
from realtime_serve.nn.llama_config import LlamaConfig as LlamaConfig
from realtime_serve.nn.parameters import Parameters as Parameters
