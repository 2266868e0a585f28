"""`quire serve`: the HTTP API. One file per idea; the story of a request is told in `quire.server.endpoints`."""
