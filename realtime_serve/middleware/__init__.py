"""What happens around every request: a chain of middleware with four hooks."""

from realtime_serve.middleware.chain import Middleware as Middleware
from realtime_serve.middleware.chain import MiddlewareChain as MiddlewareChain
from realtime_serve.middleware.chain import RequestContext as RequestContext
from realtime_serve.middleware.metrics import MetricsCollector as MetricsCollector
from realtime_serve.middleware.rate_limit import RateLimiter as RateLimiter
from realtime_serve.middleware.request_log import RequestLogger as RequestLogger
