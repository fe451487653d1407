"""Training outside of this process: by axolotl or unsloth in an environment of their own, or in several processes.

The contract is that of `adapters.specs`: a run folder goes in; an adapter folder, metrics.jsonl and an exit code come
out. Whatever the command does, this environment turns examples into tokens before it and calibrates after it, so that
an adapter from elsewhere is the same thing as one from here.
"""
