"""Data sets as users have them on disk, and the synthetic worlds. The names are those of a recipe's ``data`` section."""

from affuse.data.ave import AVE
from affuse.data.clip_folder import ClipFolder
from affuse.data.crema_d import CremaD
from affuse.data.dfew import DFEW
from affuse.data.digits import EventAudioDigits
from affuse.data.drive_and_act import DriveAndAct
from affuse.data.expression_lists import ExpressionLists
from affuse.data.expression_videos import ExpressionVideos
from affuse.data.features import Features
from affuse.data.mintrec import MIntRec
from affuse.data.mmmo_youtube import MMMOYouTube
from affuse.data.mmsa import MMSA
from affuse.data.mosi_utterances import MOSIUtterances
from affuse.data.mult_glove import MulTGloVe
from affuse.data.nmnist import NMNIST
from affuse.data.ravdess import Ravdess
from affuse.data.see import SEE
from affuse.data.synthetic.cabin import Cabin
from affuse.data.synthetic.duet import Duet
from affuse.data.synthetic.eyes import Eyes
from affuse.data.synthetic.faces import Faces
from affuse.data.synthetic.talk import Talk

DATASETS = {
    "see": SEE,
    "nmnist": NMNIST,
    "eyes": Eyes,
    "talk": Talk,
    "duet": Duet,
    "cabin": Cabin,
    "faces": Faces,
    "mosi_utterances": MOSIUtterances,
    "mmmo_youtube": MMMOYouTube,
    "mmsa": MMSA,
    "mult_glove": MulTGloVe,
    "mintrec": MIntRec,
    "event_audio_digits": EventAudioDigits,
    "features": Features,
    "ravdess": Ravdess,
    "crema_d": CremaD,
    "ave": AVE,
    "drive_and_act": DriveAndAct,
    "dfew": DFEW,
    "expression_lists": ExpressionLists,
    "expression_videos": ExpressionVideos,
    "clip_folder": ClipFolder,
}
