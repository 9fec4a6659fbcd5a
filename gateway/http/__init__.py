"""The HTTP port: the page, the cast, and the WebSocket that carries the session contract to browsers."""
