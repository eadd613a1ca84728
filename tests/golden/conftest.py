from tests.support.quick_end import uvicorn_ends_quickly

__all__ = ["uvicorn_ends_quickly"]
