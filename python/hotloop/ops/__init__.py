"""Operations on tensors: a forward kernel tied to its backward twin. Tensor's methods and the
functions of `hotloop` are these; `nn.functional` adds those of layers and losses."""

from .activation import *
from .arithmetic import *
from .comparison import *
from .product import *
from .reduction import *
from .shape import *
