"""Networks: each option of the ``model`` group is a class or function here.

They take ``input_shape`` (of a sample, without the batch) and ``num_outputs``, both facts of the data set.
"""

from dltrain.models.cnn import CNN
from dltrain.models.lenet import LeNet
from dltrain.models.mlp import MLP
from dltrain.models.recurrent import GRU, LSTM, RNN
from dltrain.models.resnet import resnet18

__all__ = ["CNN", "GRU", "LSTM", "MLP", "RNN", "LeNet", "resnet18"]
