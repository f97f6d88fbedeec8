"""The adversarial loss: both networks' gradients computed by hand, the adaptive weight, LeCam."""

from __future__ import annotations

import pytest
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
    game.loss.backward()

    by_hand = source.detach().clone().requires_grad_()
    (towards_target,) = torch.autograd.grad(F.mse_loss(by_hand, target), by_hand)
    (towards_real,) = torch.autograd.grad(-discriminator(by_hand).mean(), by_hand)
    # Each clip's adversarial gradient has 0.3 of the norm of its reconstruction gradient.
    ratios = [towards_target[clip].norm() / towards_real[clip].norm() for clip in range(2)]
    pull = torch.stack([towards_real[clip] * 0.3 * ratios[clip] for clip in range(2)])
    torch.testing.assert_close(source.grad, towards_target + pull, rtol=1e-4, atol=1e-8)

    real, fake = discriminator(target), discriminator(source.detach())
    # The squared hinge against the opposite anchor of the steps before this one.
    regular = F.relu(real + 0.2).square().mean() + F.relu(0.5 - fake).square().mean()
    hinge = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
    expected = torch.autograd.grad(hinge + 0.1 * regular, list(discriminator.parameters()))
    for parameter, gradient in zip(discriminator.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)
    assert lecam.anchors.tolist() == pytest.approx([0.5, -0.2]), "they move between steps"
    lecam.close_step()
    # 0.99 of the old anchor and 0.01 of the new mean
    assert lecam.anchors.tolist() == pytest.approx([0.495 + 0.01 * real.mean().item(), -0.198 + 0.01 * fake.mean().item()])
    torch.testing.assert_close(game.logged["adversarial_ratio"], sum(ratios) / 2, rtol=1e-4, atol=0)
    torch.testing.assert_close(game.loss - hinge - 0.1 * regular, distance)


def test_clips_of_fewer_levels_are_not_judged() -> None:
    """Their reconstruction gradient is left alone, and the discriminator learns as if they were not there."""
    torch.manual_seed(0)
    adversarial = AdversarialSection(weight=0.3, lecam=0.1, channels=8, layers=2)
    discriminator, target = Discriminator(8, 2), torch.rand(3, 3, 4, 16, 16)
    source, lecam = torch.rand_like(target), LeCam(lambda values: values)
    found = []
    for clips, judged in ((slice(0, 3), torch.tensor([True, False, True])), (slice(0, 3, 2), None)):
        video = source[clips].clone().requires_grad_()
        distance = (video - target[clips]).square().flatten(1).mean(1).sum()
        game = adversarial_loss(discriminator, video, target[clips], distance, lecam, adversarial, judged)
        discriminator.zero_grad()
        game.loss.backward()
        found.append((video.grad, [p.grad.clone() for p in discriminator.parameters()], game.logged["adversarial"]))
        lecam.close_step()
        lecam.anchors = torch.zeros(2)
    (some, learned, deceived), (only, expected, expected_deceived) = found
    torch.testing.assert_close(some[::2], only)
    torch.testing.assert_close(some[1], (2 * (source[1] - target[1]) / target[1].numel()))
    torch.testing.assert_close(learned, expected)
    torch.testing.assert_close(deceived, expected_deceived)


def test_parts_of_a_batch_play_the_game_of_the_whole() -> None:
    """Two parts of two clips, one judged clip in the first and two in the second: the mean of the parts is the whole."""
    torch.manual_seed(0)
    adversarial = AdversarialSection(weight=0.3, lecam=0.1, channels=8, layers=2)
    discriminator, target = Discriminator(8, 2), torch.rand(4, 3, 4, 16, 16)
    source, judged = torch.rand_like(target), torch.tensor([True, False, True, True])
    found = []
    for size in (4, 2):
        lecam, values, gradients = LeCam(lambda values: values), [], []
        discriminator.zero_grad()
        for video, goal, judge in zip(source.split(size), target.split(size), judged.split(size), strict=True):
            moved = video.clone().requires_grad_()
            game = adversarial_loss(
                discriminator, moved, goal, F.mse_loss(moved, goal), lecam, adversarial, judge, judged.float().mean().item()
            )
            (game.loss * size / 4).backward()
            values.append(game.loss.detach())
            gradients.append(moved.grad)
        lecam.close_step()
        learned = [parameter.grad.clone() for parameter in discriminator.parameters()]
        found.append((torch.stack(values).mean(), torch.cat(gradients), learned, lecam.anchors))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-7)


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
