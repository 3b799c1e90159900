"""Training: a recipe, the run that follows it, and the trajectory that it leaves."""

from shaketable.training.recipe import Recipe, learning_rate
from shaketable.training.recipes import NAMED, named
from shaketable.training.run import Run, dataset_of, train
from shaketable.training.together import train_together
from shaketable.training.trajectory import Checkpoints

__all__ = ["NAMED", "Checkpoints", "Recipe", "Run", "dataset_of", "learning_rate", "named", "train", "train_together"]
