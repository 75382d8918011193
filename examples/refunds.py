from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel

from retinue import Agent, Budget, FunctionCall, FunctionToolset, Workflow, step


class Refund(BaseModel):
    order: str
    reply: str = ""


def pay_back(order: str, cents: int) -> str:
    """Pay an order back."""
    return f"paid back {cents} cents for {order}"


def rules(call: FunctionCall):  # does the clerk's work where no language model is configured
    return call.results[0].text if call.results else call.use("pay_back", order=call.task, cents=1999)


tools = FunctionToolset(pay_back, effect="unsafe")  # asks a person first, and is never repeated blindly
clerk = Agent("clerk", prompt="Pay back the order you are given.", function=rules, tools=[tools])

graph = StateGraph(Refund)
graph.add_node("clerk", step(clerk, task=lambda state: state.order, into="reply"))
graph.add_edge(START, "clerk")
graph.add_edge("clerk", END)
refunds = Workflow("refunds", graph, budget=Budget(usd=0.10))
