"""msngan: GANs whose critic is regularised by Mean Spectral Normalization, with scores to believe.

Importing the package imports nothing heavy; take what you need from its modules, for instance
`from msngan.norms import MSNConv2d` or `from msngan.gan import GAN`.
"""

__version__ = "0.1.0"
