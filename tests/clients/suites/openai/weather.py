"""What the suites of the official client speak of: weather, a function for it, and what the model says."""

from __future__ import annotations

from pydantic import BaseModel

MODEL = "puppet"
SENTENCE = "Paris is the capital of France, as far as I know."
ANSWER = "It is sunny in Berlin: 21 degrees."
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


class Weather(BaseModel):
    city: str
    degrees: int


BERLIN = Weather(city="Berlin", degrees=21)
