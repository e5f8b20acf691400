# The public names; `__init__.py` reads this file. `X as X` means: for users, not for this file alone.
from .config import PAPER_AUGMENTATION as PAPER_AUGMENTATION
from .config import RECIPES as RECIPES
from .config import AugmentConfig as AugmentConfig
from .config import HostsConfig as HostsConfig
from .config import InferenceConfig as InferenceConfig
from .config import ModelConfig as ModelConfig
from .config import TrainConfig as TrainConfig
from .errors import InputError as InputError
from .errors import RunError as RunError
from .inference.postprocessing import postprocess as postprocess
from .inference.sliding_window import SlidingWindow as SlidingWindow
from .inference.sliding_window import network_predictor as network_predictor
from .networks.keras_weights import load_keras_weights as load_keras_weights
from .networks.models import RecurrentDenseUNet3D as RecurrentDenseUNet3D
from .networks.models import create_model as create_model
from .networks.named import MODELS as MODELS
from .networks.named import model_config as model_config
from .networks.summary import summarize as summarize
from .runs.workdir import RunConfig as RunConfig
from .runs.workdir import TrainedNetwork as TrainedNetwork
from .runs.workdir import load_trained as load_trained
from .scoring.intervals import mean_interval as mean_interval
from .scoring.lesions import score_lesions as score_lesions
from .scoring.patients import score_patient as score_patient
from .scoring.slices import score_slices as score_slices
from .scoring.surface import surface_distances as surface_distances
from .training.augmentation import augment as augment
from .training.checkpointing import Checkpoints as Checkpoints
from .training.loop import fit as fit
from .training.losses import LOSSES as LOSSES
from .training.losses import make_loss as make_loss
from .training.step import TrainState as TrainState
from .training.step import create_state as create_state
from .training.step import train_step as train_step

__version__: str
