"""The engine: continuous batching over a paged KV cache, driven by step().

    LLMEngine.step: Scheduler.schedule ─▶ ModelRunner.run ─▶ Scheduler.commit
                        │                                        │
                BlockPool, PrefixCache              each request's TokenRing

No thread, lock, clock or log in here; time and randomness are passed in.
"""
