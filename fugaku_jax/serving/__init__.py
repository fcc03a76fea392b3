"""A trained model as a service: OpenAI's API over HTTP, a page to talk on, and traces."""
