"""`/v1/responses`: the Responses API. `create` reads a request, `render` writes its answer, `store` keeps it for later turns."""
