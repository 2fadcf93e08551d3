"""Update rules and the trust region: optimisation that knows no reinforcement learning."""
