"""The families of type that pictures of words are set in: npm's @fontsource packages, all OFL-1.1 or Apache-2.0."""

from __future__ import annotations

from dataclasses import dataclass

VERSION = "5.3.0"


@dataclass(frozen=True)
class Family:
    """One package: its name after "@fontsource/", the cuts ("700-italic") taken of it, and the tarball's SHA-256.

    `capitals`: the face has no small letters of its own.  A family of `split` "test" is never trained on.
    """

    name: str
    cuts: tuple[str, ...]
    sha256: str
    split: str = "train"
    capitals: bool = False


FAMILIES = (
    Family("abril-fatface", ("400-normal",), "261304489f1ad9509af041947230865e79ae1e7c75c330b75d42d67a5c4a8aff"),
    Family("alfa-slab-one", ("400-normal",), "9a23f35cd084f78793d3375618def5b8a56251df4191edce109a7738b54148b0"),
    Family("anton", ("400-normal",), "796d0b1b7a503636458c0869ef9993659411c86443a4e4e7555ead4b29293db4"),
    Family(
        "archivo-narrow",
        ("400-normal", "700-normal"),
        "7adbb6ba7514b065ae523907c88b1ab37dc69c002bf3602ab3c8b31d66be8c33",
    ),
    Family(
        "bangers", ("400-normal",), "7200b288ad26e3da1dd0a47dfb6f1712c4c327f038d84afe69a682c63a2c102c", capitals=True
    ),
    Family("barlow-condensed", ("500-normal",), "759fcdd25df64b4ef41653808d849cdb9ba0a520999032ceb137ce035a17e2ea"),
    Family(
        "bebas-neue", ("400-normal",), "57928e0ee30b9e8a99033cdd5dc74ad06761007b4ad8fc32173e5d9072ba91fa", capitals=True
    ),
    Family("black-ops-one", ("400-normal",), "b4fed39b3bb1fccda1f9d0778add663f7d3fccf9422728a166ce4034d2aba7d5"),
    Family("caveat", ("700-normal",), "ebf746fc0667b9d10fcac7c8604e2ba40a264da85a1c9b48bd679c0af3221293"),
    Family(
        "cinzel", ("700-normal",), "b80629f715b4603fd099c0ceaa94cc7a15308a75a9cf52f0613a312ee6d53c28", capitals=True
    ),
    Family("comic-neue", ("700-normal",), "0d242660fa8a3e31deb4ba0005b830904db4533ae3366f9c41724ff452662fa6"),
    Family(
        "courier-prime",
        ("400-normal", "700-normal"),
        "fd204a077d81426e1425baed6d471ad78a8eccca931091e661637bb10b5f2724",
    ),
    Family(
        "eb-garamond", ("500-normal", "500-italic"), "2e61af0740104953d4fc5cb52a8c6de257ae6d83a4a89e0fd4be2f6132fd40d9"
    ),
    Family(
        "fredoka", ("500-normal",), "3826ef8182dca8bec112e8320cd42c4aaec1b4cad9f6a3a2eaa4c98ee7ece323", split="test"
    ),
    Family(
        "ibm-plex-mono",
        ("500-normal",),
        "60d3c0cfa549cb06fcb8867ee83f994d78e212abfac3bef3275436acb5c4d029",
        split="test",
    ),
    Family("indie-flower", ("400-normal",), "be380503f1e2c5ef08b8399a28f8cb2f1725527db2cb6aacec3037c2bd1b9083"),
    Family("jetbrains-mono", ("700-normal",), "1bbea47d1387406da5b6ccc4184cc61eae6851cc0db5c1d9bbd088ea9daa0b4a"),
    Family(
        "lato",
        ("400-normal", "900-normal", "700-italic"),
        "50db251f16e9a6c35fe0177b4692b7ec78478b9734c9272d980a75343638aa5c",
        split="test",
    ),
    Family("libre-baskerville", ("400-normal",), "5e1a5fe2e28c4269112aa33ff46f80034551d2a9820b2d002afe3305fa8e1ea4"),
    Family("lobster", ("400-normal",), "4ac6f6ab805b684026cb719f55dd605c892ca5d1db3f32fca88ca554a63b86d7"),
    Family("lora", ("700-normal", "500-italic"), "3f2e66b0934b8652bb1a37645a9fc3e77e83b5841a09e97174e7bb11e11063c9"),
    Family(
        "merriweather",
        ("700-normal",),
        "348f20a775e50a50b508ab6660771df6905ab2ea695c6c2a8df889c5cceec42f",
        split="test",
    ),
    Family(
        "montserrat", ("500-normal", "800-normal"), "919dce59bbe45ace8a517c1e9de5076282bfeb97e8aa8f5f2dc989451c14c7cb"
    ),
    Family("nunito", ("700-normal",), "4d8e1fb4f4a40c125c7a302b21e5c6810b86569b60bac0fa0405c04380f4c77b"),
    Family(
        "open-sans",
        ("400-normal", "700-normal", "600-italic"),
        "95e6dd90f5860d0de22f791b6d802598743762c62e4894bfa26f80b1ea0cf3f5",
    ),
    Family("oswald", ("500-normal",), "27bf46420288bb65bd186638cde54686aa8f9d5dc975b1d597dfe81a7dd472cb", split="test"),
    Family("overpass", ("700-normal",), "1199885e2bc5353f2927cd457dc6d404c75c57356251f217ecd58c621abd234d"),
    Family("pacifico", ("400-normal",), "397f4f0a8a4c44e929cafa4cfede7240f7ac81a922f6779d3fefe2192c67d619"),
    Family(
        "patrick-hand",
        ("400-normal",),
        "c3428d02610c7b8fa92b044cf766f8c30b88bb32a47460b4ac42fa14e0bcdcc0",
        split="test",
    ),
    Family(
        "permanent-marker",
        ("400-normal",),
        "1fc372d174353a87b0ae7bb9651e32e7d1731f9e0b4c50c5d8704baea032bc1b",
        capitals=True,
    ),
    Family("playfair-display", ("700-normal",), "564e61951ecc3e962793cd50395f718cda6350cb934f9000dbe0139c768dc023"),
    Family("press-start-2p", ("400-normal",), "7aa0c201772e5099e713f99ce4117c56ebdda85cb4d95b81f22922c13f655e37"),
    Family("quicksand", ("600-normal",), "237b3cc84bf92c235e17f11fcb54e8a889efeaed9a7bff4bacce8cb422e0a403"),
    Family("righteous", ("400-normal",), "f1eef6d5e0b87e0cba26208279d468f29139adddc339a98d61fcb8d7e374b4e3"),
    Family(
        "roboto",
        ("400-normal", "700-normal", "700-italic"),
        "77620f437249772e381698224ea1bddd01c985ecd60267a63ddc96b9eb9348f7",
    ),
    Family("roboto-slab", ("500-normal",), "45d42c2f30be7fa361c673a297cb75e151e977a57905e449d25875adf97e77f5"),
    Family(
        "rokkitt", ("600-normal",), "be52f3fb73a6ad2d91bf68f5b657e6e319ee98f3e6be89931d80a160c384f431", split="test"
    ),
    Family("saira-stencil-one", ("400-normal",), "fa80ae0e57372c67411ca278b0895e07b3717915ed73a7c46fd490c16260e268"),
    Family("shadows-into-light", ("400-normal",), "0885aefd34c65bd79207cffff0771ae0527f227a202bc850f8cf9a12257fc7f1"),
    Family("space-mono", ("700-normal",), "e0cd78cb7aa93e772905297d8d5ad2a3d9eea7a6a12f281a3940a28ec01c19eb"),
    Family("special-elite", ("400-normal",), "c4b33d38d9829a962bcb3fe8067ee8ce062c2a936e9e01fc072ddaf9cc897460"),
    Family("zilla-slab", ("600-normal",), "b7db2f40f3aaeb44c0e1dfe3da1e5de96d177a674ffe5e5e012c59b6a01e8aab"),
)
