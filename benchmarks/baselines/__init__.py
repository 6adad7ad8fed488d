"""What a user would otherwise run: FEM as a script around vLLM and TRL, and around transformers' own ``generate``.

Contract: same model, problems, prompts, token limits, learning rates and accepted set as the FEM run of the same
configuration; everything else is what the two libraries' documentation leads a competent user to.
"""
