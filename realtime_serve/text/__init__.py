"""Text on one side, token ids on the other: tokenizers, chat templates, stop strings.

Everything about text happens here and in the hub; what generates sees token ids only.
No torch, no threads, no files but those of a model that is loaded, nothing global.
"""

from realtime_serve.text.chat_template import ChatTemplate as ChatTemplate
from realtime_serve.text.detokenizer import Detokenizer as Detokenizer
from realtime_serve.text.model import TextModel as TextModel
from realtime_serve.text.model import load_gguf_text as load_gguf_text
from realtime_serve.text.model import load_hf_text as load_hf_text
from realtime_serve.text.stop import StopMatcher as StopMatcher
from realtime_serve.text.stop import StopResult as StopResult
from realtime_serve.text.tokenizer import Tokenizer as Tokenizer
