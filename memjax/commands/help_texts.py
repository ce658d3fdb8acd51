"""What `memjax COMMAND --help` says above its options. Imports nothing, so that help appears at once."""

TRAIN = """\
Trains the agent of a config. Launch the same command again to continue a run that was stopped or killed. A
finished run is left as it is; a larger --config.run.total_steps extends it.

--config takes the name of a shipped config (`memjax configs` lists them) or the path of a file of your own.

examples:
  memjax train --config=four_rooms --workdir=runs/first
  memjax train --config=four_rooms:smoke --workdir=runs/smoke
  memjax train --config=four_rooms:ppo --workdir=runs/ppo --config.agent.learning_rate=3e-4 --config.seed=7
  memjax train --config=my_config.py:VARIANT --workdir=runs/mine --import=my_env.py
  memjax train --config=reframe:hopper --workdir=runs/offline \\
      --config.data.path=hopper_medium-v2.hdf5 --config.data.experts=hopper_expert-v2.hdf5
"""

EVALUATE = """\
Evaluates the newest checkpoint of a run. Nothing is learned, and nothing is written. An offline run needs no
dataset here; --bank replaces the experts that it retrieves from by those of another dataset. A language-model
agent plays its benchmark's held-out tasks once, with the memory as it is; the launch is in the manifest.

examples:
  memjax evaluate runs/first --episodes=100
  memjax evaluate runs/language/memrl
  memjax evaluate runs/reframe --bank=hopper_expert.hdf5 --bank-episodes=15 --swap-bank
"""

CAMPAIGN = """\
Trains every arm of a campaign on every task with every seed, and writes DIR/results.csv with a row for each
policy and seed, tables with interquartile means, bootstrap intervals and probabilities of improvement, and a
picture. Launch the same command again to continue; what is in results.csv is not run again. docs/extending.md
says what stands in the file. --dry-run also says how many steps and frames are left.

examples:
  memjax campaign experiments/campaigns/suite.toml --workdir=runs/suite --workers=2
  memjax campaign experiments/campaigns/atari_mujoco.toml --workdir=runs/atari_mujoco --dry-run
  memjax campaign experiments/campaigns/atari_mujoco.toml --workdir=runs/atari_mujoco --workers=4 --hours=24
"""

SWEEP = """\
Trains a config under every combination of the values that --over names, with so many seeds each, and writes
DIR/results.csv, a table of the interquartile mean of each setting with its bootstrap interval, and a picture.
Every setting is checked before the first one starts. Launch the same command again to continue; what is in
results.csv is not run again. Seeds are trained side by side where the environment runs in JAX.

--random=N draws N settings instead, always the same ones; then LOW..HIGH stands for a number between the two,
and LOW..HIGH:log for one that is uniform in the logarithm.

examples:
  memjax sweep --config=four_rooms --over agent.ppo.learning_rate=1e-4,3e-4,1e-3 --seeds=10 \\
      --workdir=runs/sweep --workers=2
  memjax sweep --config=four_rooms:ppo --over agent.learning_rate=1e-4,1e-3 --over agent.clip=0.1,0.2 \\
      --seeds=5 --workdir=runs/grid --dry-run
  memjax sweep --config=four_rooms --random=20 --over agent.ppo.learning_rate=1e-5..1e-2:log \\
      --over agent.ppo.epochs=1..8 --seeds=3 --workdir=runs/random --config.run.total_steps=50000
"""

PROFILE = """\
Compiles a run, takes some of its iterations, and prints where their time goes: environment, policy, memory,
learning, waiting; with operations and bytes of the compiled program. Nothing is saved but the trace, if --out
names a folder for it; TensorBoard's profile plugin and xprof show it.

examples:
  memjax profile --config=four_rooms
  memjax profile --config=classic:CartPole+ppo --config.env.num_envs=64 --out=runs/trace
"""

REMEMBER = """\
Plays the tasks of a benchmark with a language model, epoch after epoch, and remembers how they ended; see
docs/memrl.md, and docs/own_tasks.md for tasks of your own. Launch the same command again to continue a run
that was stopped or killed. A finished run is left as it is; a larger --config.language.epochs extends it. The
key of an endpoint is read from an environment variable and from nowhere else.

examples:
  memjax remember --config=language:lifelong_db --workdir=runs/language/db
  memjax remember --config=language:humaneval+rag+local --workdir=runs/language/rag
  memjax remember --config=language:bigcodebench --workdir=runs/language/mine \\
      --config.chat.endpoint.base_url=http://127.0.0.1:8000/v1 --config.chat.endpoint.model=NAME
  memjax remember --config=language:humaneval+local --workdir=runs/language/again --config.store.mode=replay
  memjax remember --config=language:own+ngrams --workdir=runs/own --config.benchmark.folder=tasks.jsonl
"""

REPORT = """\
Draws the learning curves of one or several runs into one picture and prints the last values as a table, both
as the interquartile mean over the seeds with its 95 % bootstrap interval. For grid worlds it also draws a map
of what each agent knows.

examples:
  memjax report runs/first
  memjax report runs/first runs/ppo --out=comparison.png --seed-lines
"""

WATCH = """\
Films a trained agent: episodes of the newest checkpoint as a GIF or MP4, with the memory's share of the
actions and the confidence in them beside the picture. Nothing is learned. Grid worlds, classic control and
MinAtar are drawn by memjax, MiniGrid by xminigrid, Atari and MuJoCo by envpool; an environment that cannot be
drawn is named on one line.

examples:
  memjax watch runs/first
  memjax watch runs/first --episodes=3 --fps=4 --out=film.gif
  memjax watch runs/first --policy=memory --seed=0 --draw=7
"""

INSPECT = """\
Shows what the memories in the newest checkpoint of a run hold: how full they are, how old and how useful
their entries are. Of a language-model agent it shows the memories of the highest and of the lowest utility
as text, with how often a reward updated it, source and what they were built on, and with --rows some of
them whole. With --digest it prints a sha256 over the whole state, which tells whether two runs are equal
bit for bit.

examples:
  memjax inspect runs/first
  memjax inspect runs/first --digest
  memjax inspect runs/language/memrl --rows=17,42
"""

QUARANTINE = """\
Hides memories of a run of `memjax remember`, or of a TextMemory, from retrieval, together with all memories
that were built on them. Nothing is deleted: the decision is in the log, and --release takes it back. It acts
when the run is continued.

examples:
  memjax quarantine runs/language/memrl --rows=17,42 --why="a wrong recipe"
  memjax quarantine runs/language/memrl --rows=17 --release
"""

CONFIGS = """\
Lists the shipped configs. With a name it prints every field of that config with its value and meaning, and
the variants that the config offers; a path of your own config file works as well.

examples:
  memjax configs
  memjax configs four_rooms
  memjax configs atari:Pong+ppo
"""

COLLECT = """\
Makes an offline dataset in D4RL's HDF5 layout: policies act in envpool, and every episode is kept whole. The
file appears when it is complete. With --steps it holds a little more than asked for, as no episode is cut.

A policy is `random`, an .npz file of a Gaussian network, or the directory of a run. Several make a mixture.

examples:
  memjax collect --env=envpool/Hopper-v4 --policy random --steps=1e6 --out=hopper_random.hdf5
  memjax collect --env=envpool/Hopper-v4 --policy expert.npz --episodes=60 --mean --out=hopper_expert.hdf5
  memjax collect --env=envpool/Hopper-v4 --policy it00*.npz --steps=4e5 --out=hopper_medium_replay.hdf5
  memjax collect --env=envpool/Hopper-v4 --policy runs/hopper random --shares 3 1 --steps=1e5 --out=mixed.hdf5
"""

DEMONSTRATE = """\
Writes episodes that AdaMemento's success memory is filled with before training: those of a trained agent,
played anew in the environment of its run (in JAX; only episodes that reach the goal where there is one), or
the first ones of a D4RL or Minari dataset. A config names the file in agent.bank.demonstrations (PPO+SIL:
agent.imitation.demonstrations). With the variants imitate and no_novelty the policy learns from them.

examples:
  memjax demonstrate runs/first --episodes=5 --out=demonstrations.npz
  memjax demonstrate runs/first --policy=policy --least-return=0.5 --episodes=1 --out=one.npz
  memjax demonstrate hopper_expert-v2.hdf5 --episodes=5 --out=hopper.npz
  memjax train --config=four_rooms:imitate+no_novelty --workdir=runs/shown \\
      --config.agent.bank.demonstrations=demonstrations.npz
"""
