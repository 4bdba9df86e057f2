"""What objects show of how they were made."""

from torch import nn

from monai_infoaug._settings import ShowsSettings, settings


class Plain(ShowsSettings):
    def __init__(self, size, name="a", part=None):
        self.size, self.name, self.part = size, name, part


class Whole(ShowsSettings, nn.Module):
    def __init__(self, part, size=2):
        super().__init__()
        self.part, self.size = part, size


def test_settings_are_shown_as_in_a_call():
    assert repr(Plain((3, 4))) == "Plain(size=(3, 4), name='a', part=None)"
    assert eval(repr(Plain(3, "b"))).name == "b"
    assert settings(Plain(1, part=nn.Identity())) == "size=1, name='a'"


def test_modules_are_shown_with_their_parts():
    assert repr(Whole(nn.Flatten())) == "Whole(\n  size=2\n  (part): Flatten(start_dim=1, end_dim=-1)\n)"
    assert repr(Whole(None)) == "Whole(part=None, size=2)"
