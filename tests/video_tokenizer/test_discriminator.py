"""The adversarial loss: both networks' gradients computed by hand, the adaptive weight, LeCam."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hitvideo.settings.video_tokenizer import AdversarialSection
from hitvideo.video_tokenizer.discriminator import Discriminator, LeCam, adversarial_loss


def test_shapes() -> None:
    assert Discriminator(8, 3)(torch.zeros(2, 3, 8, 32, 48)).shape == (2, 1, 2, 4, 6)
    assert Discriminator(8, 2)(torch.zeros(2, 3, 8, 32, 48)).shape == (2, 1, 4, 8, 12)


def test_it_sees_motion() -> None:
    """The same frames in reverse order get other logits."""
    torch.manual_seed(0)
    discriminator, video = Discriminator(8, 3), torch.rand(1, 3, 8, 16, 16)
    assert not torch.allclose(discriminator(video), discriminator(video.flip(2)), atol=1e-4)


def test_one_backward_gives_both_networks_their_own_gradients() -> None:
    torch.manual_seed(0)
    adversarial = AdversarialSection(weight=0.3, lecam=0.1, channels=8, layers=2)
    discriminator, target = Discriminator(8, 2), torch.rand(2, 3, 4, 16, 16)
    source = (target + 0.3 * torch.randn(target.shape)).requires_grad_()
    lecam = LeCam(lambda values: values)
    lecam.anchors = torch.tensor([0.5, -0.2])
    video = source * 1.0  # a non-leaf, as a reconstruction is
    distance = F.mse_loss(video, target)
    game = adversarial_loss(discriminator, video, target, distance, lecam, adversarial)
    (distance + game.loss).backward()

    by_hand = source.detach().clone().requires_grad_()
    (towards_target,) = torch.autograd.grad(F.mse_loss(by_hand, target), by_hand)
    (towards_real,) = torch.autograd.grad(-discriminator(by_hand).mean(), by_hand)
    pull = towards_real * 0.3 * towards_target.norm() / towards_real.norm()
    torch.testing.assert_close(source.grad, towards_target + pull, rtol=1e-4, atol=1e-8)

    real, fake = discriminator(target), discriminator(source.detach())
    # 0.99 of the old anchor and 0.01 of the new mean, then the squared hinge against the opposite anchor
    anchor_real, anchor_fake = 0.99 * 0.5 + 0.01 * real.detach().mean(), 0.99 * -0.2 + 0.01 * fake.detach().mean()
    regular = F.relu(real - anchor_fake).square().mean() + F.relu(anchor_real - fake).square().mean()
    hinge = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
    expected = torch.autograd.grad(hinge + 0.1 * regular, list(discriminator.parameters()))
    for parameter, gradient in zip(discriminator.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(lecam.anchors, torch.stack((anchor_real, anchor_fake)))
    torch.testing.assert_close(game.logged["adversarial_ratio"], towards_target.norm() / towards_real.norm(), rtol=1e-4, atol=0)


def test_it_learns_to_tell_blur_from_sharp() -> None:
    """The hinge loss falls well below 1, the value for a discriminator that cannot tell."""
    torch.manual_seed(0)
    discriminator = Discriminator(8, 2)
    optimizer = torch.optim.Adam(discriminator.parameters(), 3e-3)
    adversarial, lecam = AdversarialSection(weight=1, lecam=0, channels=8, layers=2), LeCam(lambda values: values)
    losses = []
    for _ in range(40):
        target = (torch.rand(4, 3, 4, 16, 16) > 0.5).float() * 2 - 1
        video = F.avg_pool3d(target, (1, 3, 3), 1, (0, 1, 1)).requires_grad_()
        game = adversarial_loss(discriminator, video, target, F.l1_loss(video, target), lecam, adversarial)
        optimizer.zero_grad()
        game.loss.backward()
        optimizer.step()
        losses.append(game.logged["discriminator"].item())
    assert losses[0] > 0.8
    assert losses[-1] < 0.3
