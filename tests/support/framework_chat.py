"""A program that sends one chat through an agent framework: ``framework_chat.py FRAMEWORK BASE_URL KEY MODEL USER``.

It runs in the framework's own environment and imports nothing of ours. Every framework is given the same system message
and the same two Python functions, and writes them down in its own way. (No annotation here is left for later: some
frameworks look them up elsewhere.)
"""

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any, Literal

SYSTEM = "You are a careful agent of a travel shop.\nBe brief, and look things up before you answer."
FRAMEWORK, BASE_URL, KEY, MODEL, USER = sys.argv[1:6]
os.environ |= {
    "OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": BASE_URL, "OTEL_SDK_DISABLED": "true", "CREWAI_TRACING_ENABLED": "false",
    "CREWAI_DISABLE_TELEMETRY": "true", "LITELLM_LOCAL_MODEL_COST_MAP": "true",
}  # fmt: skip


def get_weather(city: str, days: int) -> str:
    """Tell the weather of a city."""
    return f"sunny in {city} for {days} days"


def convert(amount: float, currency: Literal["EUR", "USD"], exact: bool) -> str:
    """Convert an amount of money."""
    return f"{amount} {currency} {exact}"


FUNCTIONS: list[Callable[..., Any]] = [get_weather, convert]
MESSAGES = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": USER}]


def openai() -> None:
    from openai import OpenAI, pydantic_function_tool
    from pydantic import BaseModel

    class GetWeather(BaseModel):
        """Tell the weather of a city."""

        city: str
        days: int

    class Convert(BaseModel):
        """Convert an amount of money."""

        amount: float
        currency: Literal["EUR", "USD"]
        exact: bool

    tools = [pydantic_function_tool(GetWeather, name="get_weather"), pydantic_function_tool(Convert, name="convert")]
    OpenAI().chat.completions.create(model=MODEL, messages=MESSAGES, tools=tools)


def litellm() -> None:
    from litellm import completion

    tools = [  # as the API's documentation writes them
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "Tell the weather of a city.",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                    "required": ["city", "days"],
                },
            },
        },
        {
            "type": "function",
            "function": {
                "name": "convert",
                "description": "Convert an amount of money.",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "amount": {"type": "number"},
                        "currency": {"type": "string", "enum": ["EUR", "USD"]},
                        "exact": {"type": "boolean"},
                    },
                    "required": ["amount", "currency", "exact"],
                    "additionalProperties": False,
                },
                "strict": True,
            },
        },
    ]
    completion(model=f"openai/{MODEL}", api_base=BASE_URL, api_key=KEY, messages=MESSAGES, tools=tools)


def langchain() -> None:
    from langchain.agents import create_agent
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model=MODEL, base_url=BASE_URL, api_key=KEY)
    agent = create_agent(model, [tool(function) for function in FUNCTIONS], system_prompt=SYSTEM)
    agent.invoke({"messages": [("user", USER)]})


def openai_agents() -> None:
    from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
    from openai import AsyncOpenAI

    set_tracing_disabled(True)
    model = OpenAIChatCompletionsModel(model=MODEL, openai_client=AsyncOpenAI())
    tools = [function_tool(function) for function in FUNCTIONS]
    Runner.run_sync(Agent(name="a", instructions=SYSTEM, tools=tools, model=model), USER)


def pydantic_ai() -> None:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=BASE_URL, api_key=KEY))
    Agent(model, system_prompt=SYSTEM, tools=FUNCTIONS).run_sync(USER)


def autogen() -> None:
    from autogen_agentchat.agents import AssistantAgent
    from autogen_ext.models.openai import OpenAIChatCompletionClient

    info = {
        "vision": False, "function_calling": True, "json_output": True, "family": "unknown", "structured_output": True,
    }  # fmt: skip
    client = OpenAIChatCompletionClient(model=MODEL, base_url=BASE_URL, api_key=KEY, model_info=info)
    asyncio.run(AssistantAgent("a", client, system_message=SYSTEM, tools=FUNCTIONS).run(task=USER))


def llamaindex() -> None:
    from llama_index.core.agent.workflow import FunctionAgent
    from llama_index.llms.openai_like import OpenAILike

    model = OpenAILike(
        model=MODEL, api_base=BASE_URL, api_key=KEY, is_chat_model=True, is_function_calling_model=True,
        context_window=8192,
    )  # fmt: skip

    async def run() -> None:
        await FunctionAgent(tools=FUNCTIONS, system_prompt=SYSTEM, llm=model).run(USER)

    asyncio.run(run())


def instructor() -> None:
    from collections.abc import Iterable

    import instructor as library
    from openai import OpenAI
    from pydantic import BaseModel

    def model_of(name: str, said: str, **fields: Any) -> type[BaseModel]:
        return type(name, (BaseModel,), {"__doc__": said, "__annotations__": fields})

    weather = model_of("get_weather", "Tell the weather of a city.", city=str, days=int)
    money = model_of("convert", "Convert an amount of money.", amount=float, currency=Literal["EUR", "USD"], exact=bool)
    client = library.from_openai(OpenAI(), mode=library.Mode.PARALLEL_TOOLS)
    client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_retries=0, response_model=Iterable[weather | money]
    )


def crewai() -> None:
    from crewai import LLM, Agent, Crew, Task
    from crewai.tools import tool

    model = LLM(model=f"openai/{MODEL}", base_url=BASE_URL, api_key=KEY)
    tools = [tool(function.__name__)(function) for function in FUNCTIONS]
    agent = Agent(role="agent", goal="help", backstory=SYSTEM, llm=model, tools=tools, verbose=False)
    task = Task(description=USER, expected_output="an answer", agent=agent)
    Crew(agents=[agent], tasks=[task], verbose=False).kickoff()


def smolagents() -> None:
    from smolagents import OpenAIModel, tool

    get_weather.__doc__ = "Tell the weather of a city.\n\n    Args:\n        city: which\n        days: how many"
    convert.__doc__ = (
        "Convert an amount of money.\n\n    Args:\n        amount: how much\n        currency: into what\n"
        "        exact: to the last digit"
    )
    said = [{"role": one["role"], "content": [{"type": "text", "text": one["content"]}]} for one in MESSAGES]
    model = OpenAIModel(model_id=MODEL, api_base=BASE_URL, api_key=KEY)
    model(said, tools_to_call_from=[tool(function) for function in FUNCTIONS])


globals()[FRAMEWORK]()
