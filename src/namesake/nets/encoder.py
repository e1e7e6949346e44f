"""The trained parts of DATE's encoder (appendix A): a trunk that two heads share, a token embedder, a hypernetwork.

The paper says of them that the trunk is convolutional and shared, that the token embedder gives word vectors and the
hypernetwork low-rank factors for the attention projections (equation 4), and that the layer that predicts B starts at
zero. Everything else is ours, and the reason stands beside it; widths and numbers of blocks and layers are as small as
trained well on the picture book (`namesake.methods.date.Date` has them as settings).

Axes: `B` pictures, `D` the encoder's width, `T` places of the grid, `C` channels, `n` vectors of a word, `r` rank.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from namesake.edits import Site
from namesake.errors import Refusal

GROUP = 32  # the width of an attention head, and how many groups the normalisations have


class Trunk(nn.Module):
    """The convolutional network that both heads share.

    The U-Net's map is brought to the image encoder's grid; there is no stride, since the hypernetwork looks at places
    and the grid is small (8 x 8 in the picture book, 16 x 16 with ViT-H). Each map is normalised place by place: the
    scales of the two have nothing to do with each other, and a large CLIP has a few places of many times the usual norm.

    Args:
        channels: of the image encoder's and of the U-Net's map.
        width: D, a multiple of 32.
        blocks: residual blocks of two 3 x 3 convolutions.
    """

    def __init__(self, channels: tuple[int, int], width: int, blocks: int) -> None:
        super().__init__()
        if width < GROUP or width % GROUP:
            raise Refusal(f"The encoder's width is {width}; a multiple of {GROUP} is wanted.")
        self.enter = nn.Conv2d(sum(channels), width, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(GROUP, width),
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=1),
                nn.GroupNorm(GROUP, width),
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=1),
            )
            for _ in range(blocks)
        )
        self.leave = nn.LayerNorm(width)

    def forward(
        self, image: Float[Tensor, "B _C1 h w"], denoiser: Float[Tensor, "B _C2 _h2 _w2"]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B D"]]:
        """The places, row by row of the grid, and one vector for the whole picture: their mean, normalised."""
        height, width = image.shape[2:]
        denoiser = F.interpolate(denoiser, (height, width), mode="bilinear", antialias=True)
        x = self.enter(torch.cat([_normal(image), _normal(denoiser)], dim=1))
        for block in self.blocks:
            x = x + block(x)
        places = x.flatten(2).transpose(1, 2)
        return places, self.leave(places.mean(dim=1))


def _normal(map: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
    return F.layer_norm(map.movedim(1, -1), map.shape[1:2]).movedim(-1, 1)


class TokenEmbedder(nn.Module):
    """From the whole picture to a word's vectors for each text encoder: a base word, and what is added to it.

    The last layer is zero, so training starts at the base word (the paper has no class word to start from). What is
    added is measured in `sizes`, the usual size of a coordinate of a real word: a word of Stable Diffusion has
    coordinates of 0.015, and a bare output would leave all words behind within a step of Adam.

    Args:
        width: D.
        base: the base word's vectors [n, width of the text encoder], for each text encoder.
        sizes: for each text encoder.
    """

    def __init__(self, width: int, base: Sequence[Float[Tensor, "n _E"]], sizes: Sequence[float]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.hidden = nn.Sequential(nn.Linear(width, width), nn.SiLU())
        self.leave = nn.ModuleList(nn.Linear(width, vectors.numel()) for vectors in base)
        for number, (layer, vectors) in enumerate(zip(self.leave, base, strict=True)):
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            # Not kept with the weights: the base model has them.
            self.register_buffer(f"base_{number}", vectors.detach().float().clone(), persistent=False)

    def forward(
        self, whole: Float[Tensor, "B D"], named: Float[Tensor, "B n _E"] | None = None
    ) -> tuple[Float[Tensor, "B n _E"], ...]:
        """`named`: vectors that stand in the base word's place, those of all text encoders one after the other."""
        hidden = self.hidden(whole)
        bases = [self.get_buffer(f"base_{number}") for number in range(len(self.sizes))]
        own: Sequence[Tensor] = bases
        if named is not None:
            own = named.split([base.shape[1] for base in bases], dim=2)
        words = []
        for layer, size, base, begun in zip(self.leave, self.sizes, bases, own, strict=True):
            words.append(begun + size * layer(hidden).unflatten(1, base.shape))
        return tuple(words)


class Decoder(nn.Module):
    """A state for each site of the whole picture: each has a query, to which the whole picture is added, and the queries look
    at each other and at the places of the picture.

    Args:
        sites: how many.
        width: D, a multiple of 32.
        layers: of the decoder.
    """

    def __init__(self, sites: int, width: int, layers: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(sites, width))
        self.whole = nn.Linear(width, width)
        self.places = nn.LayerNorm(width)
        # One by one: nn.TransformerDecoder copies its layer, so that all would begin alike.
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width,
                width // GROUP,
                4 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(layers)
        )
        self.leave = nn.LayerNorm(width)

    def forward(self, places: Float[Tensor, "B T D"], whole: Float[Tensor, "B D"]) -> Float[Tensor, "B _S D"]:
        """Divided by sqrt(D), so that a step of Adam on what reads it moves a factor as far as it would if the factor itself
        were trained at about sqrt(D) times the rate (1e-3 to 2e-3 for the paper's 1e-4), and not at D times."""
        states, places = self.queries + self.whole(whole)[:, None], self.places(places)
        for layer in self.layers:
            states = layer(states, places)
        return self.leave(states) * states.shape[-1] ** -0.5


class Hypernetwork(nn.Module):
    """From the picture to the factors A [D_in, r] and B [r, D_out] of every attention projection (equation 4).

    One output layer for all would have hundreds of millions of weights. Here each site has a state (`Decoder`), and the
    output layers are shared by all sites of one width, so their size does not grow with the depth of the U-Net.

    B's output layers are zero, so that no weight changes at first. A's are not, or no gradient would ever reach either:
    A begins with the spread of an ordinary LoRA, 1 / sqrt(D_in), which keeps the size of what it reads.

    Args:
        sites: whose factors are wanted.
        width: D, a multiple of 32.
        rank: r, 1 or more.
        layers: of the decoder.
    """

    def __init__(self, sites: Sequence[Site], width: int, rank: int, layers: int) -> None:
        super().__init__()
        self.sites, self.rank = tuple(sites), rank
        self.decoder = Decoder(len(self.sites), width, layers)
        self._in = _by_width([site.in_dim for site in self.sites])
        self._out = _by_width([site.out_dim for site in self.sites])
        self.a = nn.ModuleDict({str(wide): nn.Linear(width, rank * wide) for wide in self._in})
        self.b = nn.ModuleDict({str(wide): nn.Linear(width, rank * wide) for wide in self._out})
        for wide in self._in:
            nn.init.normal_(self.a[str(wide)].weight, std=wide**-0.5)  # type: ignore[arg-type]
            nn.init.zeros_(self.a[str(wide)].bias)  # type: ignore[arg-type]
        for layer in self.b.values():
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(
        self, places: Float[Tensor, "B T D"], whole: Float[Tensor, "B D"]
    ) -> dict[str, tuple[Float[Tensor, "B r _in"], Float[Tensor, "B _out r"]]]:
        """For each site's path the transposes of A and B, which is how `LowRankEdit` holds them: down and up."""
        states = self.decoder(places, whole)
        downs, ups = [torch.empty(0)] * len(self.sites), [torch.empty(0)] * len(self.sites)
        for wide, members in self._in.items():
            a = self.a[str(wide)](states[:, members]).unflatten(2, (self.rank, wide))
            for place, down in zip(members, a.unbind(1), strict=True):
                downs[place] = down
        for wide, members in self._out.items():
            b = self.b[str(wide)](states[:, members]).unflatten(2, (wide, self.rank))
            for place, up in zip(members, b.unbind(1), strict=True):
                ups[place] = up
        return {site.path: (down, up) for site, down, up in zip(self.sites, downs, ups, strict=True)}


class BasisHypernetwork(nn.Module):
    """The same on every linear map and convolution, too many and too wide for factors to be predicted outright.

    Each site has two bases, learned and shared by all pictures, D_in to r and r to D_out; a picture gives r x r numbers
    between them, from one output layer for all sites (as HyperDreamBooth's, whose bases are drawn at random): A is the first
    basis, B the numbers times the second one. The output layer is zero, so that no weight changes at first.

    Args:
        sites: whose factors are wanted.
        width: D, a multiple of 32.
        rank: r, 1 or more.
        layers: of the decoder.
    """

    def __init__(self, sites: Sequence[Site], width: int, rank: int, layers: int) -> None:
        super().__init__()
        self.sites, self.rank = tuple(sites), rank
        self.decoder = Decoder(len(self.sites), width, layers)
        self.a = nn.ParameterList(torch.randn(rank, site.in_dim) * site.in_dim**-0.5 for site in self.sites)
        self.b = nn.ParameterList(torch.randn(site.out_dim, rank) * rank**-0.5 for site in self.sites)
        self.between = nn.Linear(width, rank * rank)
        nn.init.zeros_(self.between.weight)
        nn.init.zeros_(self.between.bias)

    def forward(
        self, places: Float[Tensor, "B T D"], whole: Float[Tensor, "B D"]
    ) -> dict[str, tuple[Float[Tensor, "B r _in"], Float[Tensor, "B _out r"]]]:
        """As `Hypernetwork`."""
        between = self.between(self.decoder(places, whole)).unflatten(2, (self.rank, self.rank)).unbind(1)
        return {
            site.path: (a.expand(len(numbers), -1, -1), b @ numbers)
            for site, a, b, numbers in zip(self.sites, self.a, self.b, between, strict=True)
        }


def _by_width(widths: list[int]) -> dict[int, list[int]]:
    """The places of each width in a list."""
    return {wide: [place for place, one in enumerate(widths) if one == wide] for wide in sorted(set(widths))}
