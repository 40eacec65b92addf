"""HTTP below the routes: connections and their bounds, errors, hang-ups, what is recorded of a request.

The lowest room of the gateway: it knows neither engines nor prompts.
"""
