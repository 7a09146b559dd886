"""The two drop-in classes."""


class IRISReplayBuffer:
    pass


class IRISOnPolicyBuffer:
    pass
