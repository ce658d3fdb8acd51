"""Plays one task with the memories that were retrieved for it, and writes down the experience."""

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from memjax.llm.run.baselines import Facts, facts_request, parse_facts
from memjax.llm.run.content import NO_CORE, Content, experience_text, shorten
from memjax.llm.run.prompts import plain, reflection_request, script_request
from memjax.llm.run.records import Attempt, Experience
from memjax.llm.types import Ask, Chat, ChatError, Message, Outcome, Reply, Task
from memjax.types import ConfigError, RunEnded

STOP_KINDS = ("budget", "auth")  # kinds of ChatError that would hit every further task: they end the run


class Style(NamedTuple):
    """Settings of an attempt: how replies are requested, and what is written down afterwards."""

    seed: int
    temperature: float
    max_tokens: int
    summarise: bool  # write a plan after a success, a reflection after a failure
    write: Literal["all", "failures", "none"]  # which attempts become an experience
    facts: bool  # the content is what the model says of facts (memjax.llm.run.baselines)
    summary_temperature: float
    summary_max_tokens: int
    chars: int  # of an experience, at most


class Asking:
    """The `Ask` of one attempt: binds the settings, counts the tokens, and draws a seed for each request.

    The seed depends on the run, the attempt and the number of the request, not on the order of the threads.

    Args:
      chat: the model.
      style: the settings.
      name: of the attempt, unique in the run.
    """

    def __init__(self, chat: Chat, style: Style, name: str):
        self._chat, self._style, self._name = chat, style, name
        self.calls = self.prompt_tokens = self.completion_tokens = 0

    def __call__(self, messages: Sequence[Message], /, *, choices: Sequence[str] = ()) -> Reply:
        """The model's reply. Raises ChatError."""
        return self.ask(messages, self._style.max_tokens, self._style.temperature, choices)

    def ask(
        self, messages: Sequence[Message], max_tokens: int, temperature: float, choices: Sequence[str] = ()
    ) -> Reply:
        """The model's reply, at most `max_tokens` long, sampled at `temperature`. Raises ChatError."""
        text = f"{self._style.seed}/{self._name}/{self.calls}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
        self.calls += 1
        messages = [Message(m.role, plain(m.content)) for m in messages]
        offered: dict[str, Any] = {"choices": [plain(choice) for choice in choices]} if choices else {}
        reply = self._chat.complete(
            messages, max_tokens=max_tokens, temperature=temperature, seed=seed, **offered
        )
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        return reply


def attempt_task(
    task: Task,
    memories: Callable[[Ask], str],
    chat: Chat,
    style: Style,
    *,
    name: str,
    shown: Sequence[Experience] = (),
) -> Attempt:
    """Plays a task and writes down the experience.

    Args:
      task: the task.
      memories: gives the text to show the model, "" for none; it may ask the model first.
      chat: the model.
      style: the settings.
      name: of the attempt, unique in the run; seeds are drawn from it.
      shown: the memories that the text holds.

    Returns:
      The attempt. Where the task could not be played, its `error` says why.

    Raises:
      ChatError: of a kind in STOP_KINDS, where the run must end.
      ConfigError: the task needs something that is not installed, or its outcome is another task's.
    """
    asking, began = Asking(chat, style, name), time.monotonic()
    try:
        outcome = task.attempt(asking, memories(asking))
    except (ConfigError, RunEnded):
        raise
    except Exception as error:  # an error in one task must not end the others
        return _skip(task.id, error, asking, time.monotonic() - began)
    if outcome.task_id != task.id:
        raise ConfigError("task", f"an outcome of '{task.id}'", f"one of '{outcome.task_id}'")
    texts = {name: plain(getattr(outcome, name)) for name in ("trajectory", "feedback", "solution")}
    outcome = outcome._replace(**texts)
    facts = Facts("", ())
    if style.facts and style.write == "all":
        content, facts, summary_error = _facts(task, outcome, shown, asking, style)
        source = "facts"
    else:
        content, source, summary_error = _experience(task, outcome, asking, style)
    return Attempt(
        task_id=task.id,
        success=bool(outcome.success),
        score=float(outcome.score),
        trajectory=outcome.trajectory[: style.chars],
        feedback=outcome.feedback[: style.chars],
        content=content.text,
        source=source,
        steps=int(outcome.steps),
        prompt_tokens=asking.prompt_tokens,
        completion_tokens=asking.completion_tokens,
        summary_error=summary_error,
        seconds=time.monotonic() - began,
        core=content.core,
        replaces=facts.replaced,
    )


def _facts(
    task: Task, outcome: Outcome, shown: Sequence[Experience], asking: Asking, style: Style
) -> tuple[Content, Facts, str]:
    """(content, facts, summary_error) of an `Attempt` in a store of facts; nothing where the model fails."""
    messages = facts_request(plain(task.intent), outcome, shown, chars=style.chars)
    try:
        reply = asking.ask(messages, style.summary_max_tokens, style.summary_temperature)
    except ChatError as error:
        if error.kind in STOP_KINDS:
            raise
        return Content("", NO_CORE), Facts("", ()), f"{error.kind}: {error}"
    facts = parse_facts(plain(reply.text), shown)
    text = shorten(facts.text, style.chars)
    return Content(text, len(text) if text == facts.text else 0), facts, ""


def _experience(task: Task, outcome: Outcome, asking: Asking, style: Style) -> tuple[Content, str, str]:
    """(content, source, summary_error) of an `Attempt`. Where the summary fails the record is kept alone."""
    if style.write == "none" or (style.write == "failures" and outcome.success):
        return Content("", NO_CORE), "", ""
    intent, summary, source, why = plain(task.intent), "", "trajectory", ""
    if style.summarise:
        try:
            summary = _summary(intent, outcome, asking, style)
            source = "script" if outcome.success else "reflection"
        except ChatError as error:
            if error.kind in STOP_KINDS:
                raise
            why = f"{error.kind}: {error}"
    content = experience_text(
        intent,
        outcome.solution,
        outcome.trajectory,
        summary=summary,
        success=outcome.success,
        chars=style.chars,
    )
    return content, source, why


def _summary(intent: str, outcome: Outcome, asking: Asking, style: Style) -> str:
    if outcome.success:
        messages = script_request(intent, outcome.trajectory, chars=style.chars)
    else:
        messages = reflection_request(intent, outcome.trajectory, outcome.feedback, chars=style.chars)
    return plain(asking.ask(messages, style.summary_max_tokens, style.summary_temperature).text)


def _skip(task_id: str, error: Exception, asking: Asking, seconds: float) -> Attempt:
    """The attempt of a task that could not be played. Raises `error` where no other task could be either."""
    if isinstance(error, ChatError) and error.kind in STOP_KINDS:
        raise error
    kind = error.kind if isinstance(error, ChatError) else type(error).__name__
    what = " ".join(plain(str(error)).split())[:1000]
    return Attempt(
        task_id,
        error=f"{kind}: {what}",
        prompt_tokens=asking.prompt_tokens,
        completion_tokens=asking.completion_tokens,
        seconds=seconds,
    )
