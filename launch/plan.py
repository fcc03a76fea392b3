"""Show how a recipe would lie on a machine: mesh, pipeline, memory, rank map. No device is needed.

python launch/plan.py fugaku_llm_13b
python launch/plan.py tiny --devices 24 --mesh.tensor 4 --picture mesh.svg
python launch/plan.py schedule --kind 1f1b --stages 4 --micro-batches 8 --picture schedule.svg
python launch/plan.py vcoordfile fugaku_llm_13b --out rank_map.txt
"""

import functools
import math
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from command import parse, run_program
from recipes import load_recipe
from rich.console import Console
from rich.table import Table

from fugaku_jax.config import Config
from fugaku_jax.errors import InputError
from fugaku_jax.planning.draw_mesh import draw_mesh
from fugaku_jax.planning.draw_schedule import draw_schedule
from fugaku_jax.sharding.assignment import KINDS
from fugaku_jax.sharding.mesh import describe_mesh, torus_shape
from fugaku_jax.sharding.schedule import Schedule, make_schedule
from fugaku_jax.sharding.schedule_slots import plan_slots
from fugaku_jax.sharding.schedule_time import bubble, formula_bubble
from fugaku_jax.tofu.allocation import Placement, fold, parse_shape, write_vcoordfile
