"""How fast this machine trains, generates and reads: `launch/bench.py` prints it."""
