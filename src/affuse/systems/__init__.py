"""The systems, by the name that a recipe calls them."""

from affuse.systems.baselines.ef_lstm import EFLSTM
from affuse.systems.baselines.expressions.former_dfer import FormerDFER
from affuse.systems.baselines.expressions.r2plus1d_18 import R2Plus1D18
from affuse.systems.baselines.expressions.r3d_18 import R3D18
from affuse.systems.baselines.expressions.resnet18_recurrent import ResNet18GRU, ResNet18LSTM
from affuse.systems.baselines.lf_dnn import LFDNN
from affuse.systems.baselines.lmf import LMF
from affuse.systems.baselines.mag_bert import MAGBERT
from affuse.systems.baselines.mfn import MFN
from affuse.systems.baselines.misa import MISA
from affuse.systems.baselines.mult import MulT
from affuse.systems.baselines.self_mm import SelfMM
from affuse.systems.baselines.tfn import TFN
from affuse.systems.baselines.unimodal import Unimodal
from affuse.systems.emoe import EMOE
from affuse.systems.fer_ssm import FERSSM
from affuse.systems.mco_e import MCOENet
from affuse.systems.mome import MoME
from affuse.systems.taaf import TAAF
from affuse.types import System

SYSTEMS: dict[str, type[System]] = {
    "mco_e": MCOENet,
    "emoe": EMOE,
    "taaf": TAAF,
    "mome": MoME,
    "fer_ssm": FERSSM,
    "ef_lstm": EFLSTM,
    "lf_dnn": LFDNN,
    "tfn": TFN,
    "lmf": LMF,
    "mfn": MFN,
    "mult": MulT,
    "misa": MISA,
    "self_mm": SelfMM,
    "mag_bert": MAGBERT,
    "unimodal": Unimodal,
    "r2plus1d_18": R2Plus1D18,
    "r3d_18": R3D18,
    "resnet18_lstm": ResNet18LSTM,
    "resnet18_gru": ResNet18GRU,
    "former_dfer": FormerDFER,
}
