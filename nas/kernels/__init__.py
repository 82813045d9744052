"""Train and evaluate networks on a CPU with the batch innermost: `Network`, `gather`, `augment`; `SoapStep`.

Layout. Tensors are (C, H, W, N) float32, so that a vector holds one pixel of 8 or 16 images, and any channel count and
kernel size vectorises without waste. A convolution is a sum of scaled vectors, its weight gradient a set of long dot
products, batch norm a pass over rows that are still in the cache, pooling a maximum of four vectors.

Letters and words, the same in every file:

    C, H, W, N      channels, height, width, images of the batch; c_in, h_in, w_in are of the input, c_out, h, w of the
                    output; in a loop c is a channel (i of the input, o of the output), y a row, x a column, n an image
    x, z, y         a stage's input; its convolution's output; its output, after norm, ReLU, pool and residual
    *_grad          the gradient of that; the gradient of z overwrites z
    a, b            the coefficients of the norm as one map a z + b; p, q those of its gradient a g + p z + q
    lanes           N rounded up to whole vectors, the images that a row has room for; LANES is those of one vector.
                    The lanes beyond the last image compute on zeros, stay out of the batch statistics and carry no
                    gradient. (In the sums of a weight gradient: the LANES partial sums of one weight.)
    pixel           bytes from one pixel to the next, 4 lanes; plane: bytes from one channel to the next
    row             of a map: W pixels of one channel; of a register block: one of its output channels
    block           what one call of a register block computes: rows x columns (vectors), held in registers throughout
    tap             one position (ky, kx) of a kernel; area: all of them, kernel x kernel
    transposed      1 where a convolution runs from z to x, for the gradient of the input; else 0
    s               a stage: a convolution with all that follows it up to the next, or a pool (`tape.STAGE`)
    separable       a 1x1 convolution that directly follows a depthwise one: the two run as one, row by row
    deferred        an output that is not stored: the next stage pulls its rows into a ring of `kernel` rows

Files, each using only those above it:

    denormals   flush denormals for a while, then put the thread back
    jit         from Python to machine code; arrays from addresses
    blocks      the register blocks, as LLVM instructions
    cache       the folder of the machine code; `compile_all`
    tape        architecture -> stages -> a record for each, and the buffers they point into
    conv        convolution, its transpose, its weight gradient
    norm        batch norm, ReLU and max-pool in one pass, and their gradient
    pool        max-pool and global pool on their own
    step        the tape forward, the loss, the tape back
    images      batches of images, plain or through random maps, colours and holes
    soap        `SoapStep`
    network     `Network`
    warm_up     a call of every compiled function

Kernels are single-threaded, release the GIL and give the same bits from run to run: the machine's cores are for several
workers. Fast-math stops at contraction and reassociation, so that a NaN stays a NaN.
"""

from nas.kernels.cache import compile_all, folder_name
from nas.kernels.denormals import flush_denormals
from nas.kernels.images import augment, erase_, gather, recolour_
from nas.kernels.jit import unsuited
from nas.kernels.network import Network
from nas.kernels.soap import SoapSides, SoapStep

__all__ = [
    "Network",
    "SoapSides",
    "SoapStep",
    "augment",
    "compile_all",
    "erase_",
    "flush_denormals",
    "folder_name",
    "gather",
    "recolour_",
    "unsuited",
]
