"""The simulated experiment runs, learns around the spoiled memories, and writes its tables."""

from experiments.spoiled_memories import KINDS, Request, Simulated, config, main
from memjax.llm.run.analysis import analyse


def test_utilities_unlearn_what_is_spoiled(tmp_path, capsys):
    main([f"--runs={tmp_path / 'runs'}", f"--out={tmp_path / 'out'}", "--epochs=3", "--seeds=1"])
    assert "MemRL minus RAG" in capsys.readouterr().out
    found = analyse(tmp_path / "runs" / "memrl_0" / "experience.sqlite")
    assert found.spoiled[-1] < found.spoiled[0]
    assert found.correlation > 0
    assert (tmp_path / "out" / "curves.png").stat().st_size > 1_000


def test_the_simulated_agent_follows_the_first_recipe():
    request, model = Request(3), Simulated()

    def solved(memories):
        ask = [lambda m, s=s: model.complete(m, max_tokens=1, temperature=1.0, seed=s) for s in range(200)]
        return sum(request.attempt(one, memories).success for one in ask) / 200

    assert request.kind == 3 < len(KINDS)
    assert solved("recipe-3 recipe-1") > 0.85
    assert solved("recipe-1 recipe-3") == 0.0
    assert 0.1 < solved("These ended badly; recipe-1") < 0.3
    assert config("memrl", 0, 2).summaries == config("rag", 0, 2).summaries
