from experiments.configs import base


def get_config(variant: str = ""):
    config = base.experiment("four_rooms", "memjax/FourRooms-v0")
    names = variant.split("+") if variant else []
    agent = base.adamemento()
    for name in names:
        if name == "ppo":
            agent = base.merged(base.ppo(), name="ppo")
        elif name == "rnd":
            agent = base.merged(base.ppo(), name="ppo", novelty=base.novelty("rnd"))
        elif name == "sil":
            agent = base.sil()
    config.agent = agent
    return config.lock()
