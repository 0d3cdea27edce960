"""The fast way in for predictions: bytes to answer without ASGI, tasks or futures."""
