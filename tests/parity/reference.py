"""The other side of every comparison: PyTorch, Hugging Face diffusers, pytorch-fid, NumPy.

`REFERENCE` maps the name of a component to a function that gives its arrays. Inputs are those of
`vdu_jax.parity.inputs`; no other code of ours computes anything here, and what diffusers does not
have (the losses) is written from docs/method.md.

All of it runs in float64, so that a difference is our rounding and not that of two sides, and the
golden numbers do not depend on a CPU's kernels. diffusers itself computes the time embedding in
float32. Its schedulers keep ᾱ in float32, whose 1 − ᾱ has lost digits at small t; here they get ᾱ
from the same betas in float64.
"""

import functools
from unittest import mock

import diffusers
import numpy as np
import torch
import torchvision
import transformers
from pytorch_fid import inception as fid_inception
from pytorch_fid.fid_score import calculate_frechet_distance

from vdu_jax.parity import compare, inputs

# Networks as small as most of these are many times slower on several threads that share cores.
torch.set_num_threads(1)

SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}


def as_torch(array, dtype=torch.float64):
    """Images (B, H, W, C) become (B, C, H, W); anything else stays as it is."""
    tensor = torch.from_numpy(np.array(array)).to(dtype)
    return tensor.permute(0, 3, 1, 2).contiguous() if tensor.ndim == 4 else tensor


def as_images(tensor):
    return tensor.detach().permute(0, 2, 3, 1).numpy()


def image_shape(config):
    size = config["sample_size"]
    return (*(size if isinstance(size, tuple) else (size, size)), config["in_channels"])


def shapes(net):
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


def network(config, dtype=torch.float64):
    net = diffusers.UNet2DModel(**config).eval()
    load(net, inputs.tensors(shapes(net)))
    return torch.nn.Module.to(net, dtype)  # theirs warns that it is not for training


def load(net, tensors):
    net.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})


def scheduler(kind, beta_schedule="linear", **settings):
    made = kind(inputs.NUM_TRAIN_STEPS, beta_schedule=beta_schedule, **settings)
    made.alphas_cumprod = torch.cumprod(1 - made.betas.double(), 0)
    return made


def forward(config, dtype=torch.float64):
    net = network(config, dtype)
    xt = as_torch(inputs.normal(1, len(inputs.TIMES), *image_shape(config)), dtype)
    labels = torch.from_numpy(inputs.LABELS) if config.get("num_class_embeds") else None
    with torch.no_grad():
        return {"eps": as_images(net(xt, torch.from_numpy(inputs.TIMES), labels).sample)}


def once(name):
    """Our name of a tensor: every block of theirs has a copy of the embedding of time and class."""
    _, copied, part = name.partition(".norm1.emb.")
    if not copied:
        return name
    part = part.replace("timestep_embedder", "time_embedding")
    return part.replace("class_embedder.embedding_table", "class_embedding")


def dit(config, dtype=torch.float64):
    """diffusers' DiT with one embedding for all blocks, as in the paper's code.

    Their frequencies are 10000^(-i / 127) and the paper's 10000^(-i / 128), to which they are set.
    Without classes all rows of their table are 0.
    """
    classes, heads = config.get("num_class_embeds", 0), config["num_heads"]
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=config["hidden_size"] // heads,
        in_channels=config["channels"],
        num_layers=config["depth"],
        sample_size=config["size"],
        patch_size=config["patch_size"],
        num_embeds_ada_norm=max(classes, 2) - 1,  # they add one for images without a class
        norm_eps=1e-6,
    ).eval()
    wanted = {once(name): shape for name, shape in shapes(net).items()}
    table = wanted["class_embedding.weight"]
    if not classes:
        del wanted["class_embedding.weight"]
    drawn = inputs.tensors(wanted, seed=60)
    drawn.setdefault("class_embedding.weight", np.zeros(table, np.float32))
    load(net, {name: drawn[once(name)] for name in net.state_dict()})
    for block in net.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return torch.nn.Module.to(net, dtype)


def dit_noise(config, dtype=torch.float64):
    net, size = dit(config, dtype), config["size"]
    xt = inputs.normal(61, len(inputs.TIMES), size, size, config["channels"])
    labels = inputs.LABELS if config.get("num_class_embeds") else np.zeros_like(inputs.LABELS)
    with torch.no_grad():
        found = net(as_torch(xt, dtype), torch.from_numpy(inputs.TIMES), torch.from_numpy(labels))
    return {"eps": as_images(found.sample)}


def dit_gradients(config):
    """Of a batch of labelled images; copies of one parameter have the sum of their gradients."""
    net, size = dit(config), config["size"]
    x0 = inputs.images(62, len(inputs.LABELS), size, size, config["channels"])
    t, eps = noising(inputs.training_noising(x0.shape))
    labelled = functools.partial(net, class_labels=torch.from_numpy(inputs.LABELS))
    weighted_errors(labelled, as_torch(x0), t, eps, "simple").mean().backward()
    summed = {}
    for name, gradient in gradient_tensors(net).items():
        summed[once(name)] = summed.get(once(name), 0) + gradient
    return compare.by_layer(summed)


def exact_weights(noise):
    """w_t = β_t² / (2 σ_t² α_t (1 − ᾱ_t)): docs/method.md, section 2."""
    beta, level = noise.betas.double(), noise.alphas_cumprod
    sigma2 = beta[1:] * (1 - level[:-1]) / (1 - level[1:])
    # At t = 0 the posterior's variance is 0; Ho et al. take that of t = 1.
    sigma2 = torch.cat([sigma2[:1], sigma2])
    return beta**2 / (2 * sigma2 * (1 - beta) * (1 - level))


def all_exact_weights():
    made = {name: scheduler(diffusers.DDPMScheduler, theirs) for name, theirs in SCHEDULES.items()}
    return {name: exact_weights(noise).numpy() for name, noise in made.items()}


def weighted_errors(net, x0, t, eps, weighting):
    """w_t e(θ; x_0, t, ε) of each image: docs/method.md, sections 1 and 2."""
    noise = scheduler(diffusers.DDPMScheduler)
    level = noise.alphas_cumprod[t][:, None, None, None]
    xt = level.sqrt() * x0 + (1 - level).sqrt() * eps
    errors = ((net(xt, t).sample - eps) ** 2).mean((1, 2, 3))
    return errors * exact_weights(noise)[t] if weighting == "exact" else errors


def noising(drawn):
    return as_torch(drawn.t, torch.int64), as_torch(drawn.eps)


def gradient_tensors(net):
    return {name: p.grad.numpy() for name, p in net.named_parameters()}


def eps_loss(config_name):
    config = inputs.UNETS[config_name]
    net = network(config)
    x0 = inputs.images(2, 4, *image_shape(config))
    t, eps = noising(inputs.training_noising(x0.shape))
    errors = weighted_errors(net, as_torch(x0), t, eps, inputs.GRADIENTS[config_name])
    return net, errors.mean()


def losses():
    return {
        f"{name}/{weighting}": eps_loss(name)[1].detach().numpy().reshape(1)
        for name, weighting in inputs.GRADIENTS.items()
    }


def gradients(config_name):
    net, loss = eps_loss(config_name)
    loss.backward()
    return compare.by_layer(gradient_tensors(net))


def schedule(name):
    noise = scheduler(diffusers.DDPMScheduler, SCHEDULES[name])
    variance = [noise._get_variance(t) for t in range(inputs.NUM_TRAIN_STEPS)]
    return {
        "betas": noise.betas.numpy(),
        "alphas_cumprod": noise.alphas_cumprod.numpy(),
        "posterior_variance": torch.stack(variance).numpy(),
    }


def ddpm_step(noise, t, x, eps, z, clip):
    # The scheduler draws its noise itself.
    with mock.patch("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: z):
        return noise.step(eps, t, x).prev_sample


def ddim_step(noise, t, x, eps, z, clip, eta):
    # Ours derives ε̂ again from the clipped x̂_0, an option of theirs.
    return noise.step(
        eps, t, x, eta=eta, use_clipped_model_output=clip, variance_noise=z if eta else None
    ).prev_sample


def dpm_step(noise, t, x, eps, z, clip):
    return noise.step(eps, t, x, variance_noise=z).prev_sample


def sampler_steps(cases):
    return {name: follow(case) for name, case in cases.items()}


def follow(case):
    plan, clip = dict(case.plan), case.clip_x0
    name, num_steps, spacing = plan.pop("name"), plan.pop("num_steps"), plan.pop("spacing")
    if name == "ddpm":
        kind, step = diffusers.DDPMScheduler, ddpm_step
        settings = dict(clip_sample=clip, variance_type=plan["variance"])
    elif name == "ddim":
        kind, step = diffusers.DDIMScheduler, functools.partial(ddim_step, eta=plan["eta"])
        settings = dict(clip_sample=clip)
    else:
        # It knows only a threshold that adapts; bounded by 1, that is clipping.
        kind, step = diffusers.DPMSolverMultistepScheduler, dpm_step
        settings = dict(thresholding=clip, sample_max_value=1.0)
        if plan.get("eta"):
            settings["algorithm_type"] = "sde-dpmsolver++"
    noise = scheduler(kind, timestep_spacing=spacing, **settings)
    noise.set_timesteps(num_steps)
    if name == "dpm++2m":  # which has rounded them to float32
        levels = noise.alphas_cumprod[noise.timesteps]
        noise.sigmas = torch.cat([((1 - levels) / levels).sqrt(), torch.zeros(1)])
    xs, predictions, noises = (
        torch.from_numpy(values).double() for values in inputs.sampler_inputs(case)
    )
    results = []
    for row, x, eps, z in zip(case.steps, xs, predictions, noises, strict=True):
        # With "fixed_large" and "trailing" spacing theirs adds noise to the final image, too.
        z = torch.zeros_like(z) if row == num_steps - 1 else z
        results.append(step(noise, noise.timesteps[row], x, eps, z, clip))
    return torch.stack(results).numpy()


def ddim_images():
    net = network(inputs.SMALL)
    noise = scheduler(diffusers.DDIMScheduler, timestep_spacing="trailing")
    noise.set_timesteps(50)
    x = as_torch(inputs.normal(3, 4, *image_shape(inputs.SMALL)))
    with torch.no_grad():
        for t in noise.timesteps:
            x = ddim_step(noise, t, x, net(x, t).sample, None, clip=True, eta=0.0)
    return {"image": as_images(x)}


def checkpoint_moments(part):
    checkpoints = inputs.checkpoints()
    stacked = {
        name: torch.stack([torch.from_numpy(c[name]).double() for c in checkpoints])
        for name in checkpoints[0]
    }
    return {
        name: (values.mean(0) if part == "mean" else values.var(0)).numpy()
        for name, values in stacked.items()
    }


class VDU:
    """The loss of docs/method.md, section 2, on a network; its parameters now are θ*."""

    def __init__(self, net, case):
        self.net, self.case = net, case
        pretrained = {name: p.detach().float().numpy() for name, p in net.named_parameters()}
        mean, variance = inputs.vdu_posterior(pretrained)
        centre = pretrained if case.anchor == "pretrained" else mean
        self.centre, self.variance = (
            {name: torch.from_numpy(value).double() for name, value in tensors.items()}
            for tensors in (centre, variance)
        )

    def loss(self, x0, drawn):
        case = self.case
        t, eps = noising(drawn)
        plasticity = weighted_errors(self.net, as_torch(x0), t, eps, case.weighting).mean()
        stability = sum(
            ((p - self.centre[name]) ** 2 / (2 * self.variance[name])).sum()
            for name, p in self.net.named_parameters()
        )
        if case.reduction == "sum":
            plasticity = inputs.NUM_FORGET * plasticity
        else:
            stability = stability / sum(p.numel() for p in self.net.parameters())
        return -(1 - case.gamma) * plasticity + case.gamma * stability


def vdu_losses():
    config = inputs.SMALLEST
    results = {}
    for name, case in inputs.VDU_CASES.items():
        net = network(config)
        objective = VDU(net, case)
        load(net, inputs.nearby(inputs.tensors(shapes(net)), 0.02, seed=4))
        x0 = inputs.images(5, 4, *image_shape(config))
        loss = objective.loss(x0, inputs.vdu_noising(x0.shape))
        loss.backward()
        gradient = compare.by_layer(gradient_tensors(net))
        results[name] = loss.detach().numpy().reshape(1), gradient
    return results


def vdu_loss():
    return {name: loss for name, (loss, _) in vdu_losses().items()}


def vdu_gradients():
    return {
        f"{name}/{layer}": values
        for name, (_, gradient) in vdu_losses().items()
        for layer, values in gradient.items()
    }


@functools.cache
def vdu_run():
    net = network(inputs.SMALL)
    objective = VDU(net, inputs.VDU_RUN)
    optimizer = torch.optim.Adam(
        net.parameters(), inputs.VDU_LEARNING_RATE, betas=(0.9, 0.999), eps=1e-8
    )

    def parameters():
        return inputs.flat({name: p.detach().numpy() for name, p in net.named_parameters()})

    start, history = parameters(), []
    for step in range(inputs.VDU_STEPS):
        x0 = inputs.vdu_batch(step, image_shape(inputs.SMALL))
        loss = objective.loss(x0, inputs.vdu_run_noising(step, x0.shape))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    end = parameters()
    return {
        "losses": {"loss": np.array(history)},
        "parameters": {"parameters": end},
        "update": {"update": end - start},
    }


def inception_network():
    """`pytorch_fid.inception.InceptionV3` for the 2048 features, with the weights of `inputs`."""
    with mock.patch.object(
        fid_inception, "load_state_dict_from_url", lambda *_, **__: inception_state()
    ):
        return fid_inception.InceptionV3([3]).eval()


def inception_state():
    """A state dict of the form of pytorch-fid's published one, with other numbers."""
    net = torchvision.models.inception_v3(
        num_classes=1008, aux_logits=False, weights=None, init_weights=False
    )
    state = net.state_dict()
    wanted = {
        name: tuple(value.shape)
        for name, value in state.items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    drawn = inputs.inception_tensors(wanted)
    return state | {name: torch.from_numpy(value) for name, value in drawn.items()}


def inception_features():
    net = inception_network().double()
    with torch.no_grad():
        return {
            name: net((as_torch(x) + 1) / 2)[0][:, :, 0, 0].numpy()
            for name, x in inputs.inception_images().items()
        }


def frechet_distances():
    return {
        name: np.array(
            [
                calculate_frechet_distance(
                    *(
                        statistic
                        for features in pair
                        for statistic in (
                            features.astype(np.float64).mean(0),
                            np.cov(features.astype(np.float64), rowvar=False),
                        )
                    )
                )
            ]
        )
        for name, pair in inputs.feature_pairs().items()
    }


def stable_diffusion_part(part, config, dtype=torch.float64):
    if part == "text_encoder":
        net = transformers.CLIPTextModel(transformers.CLIPTextConfig(**config)).eval()
    else:
        kind = {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}[part]
        net = kind(**config).eval()
    # Before transformers 5 the text encoder's names began so; they are drawn by their new names.
    old = {name: name.removeprefix("text_model.") for name in net.state_dict()}
    drawn = inputs.tensors({old[name]: shape for name, shape in shapes(net).items()}, seed=50)
    load(net, {name: drawn[old[name]] for name in net.state_dict()})
    return torch.nn.Module.to(net, dtype)


def text_embeddings(config, dtype=torch.float64):
    net = stable_diffusion_part("text_encoder", config, dtype)
    with torch.no_grad():
        return {"embeddings": net(torch.from_numpy(inputs.TOKENS)).last_hidden_state.numpy()}


def clip_similarity():
    net = transformers.CLIPModel(transformers.CLIPConfig(**inputs.CLIP)).eval()
    load(net, inputs.tensors(shapes(net), seed=50))
    side = inputs.CLIP["vision_config"]["image_size"]
    images = as_torch(inputs.normal(56, 3, side, side, 3))
    with torch.no_grad():
        net = torch.nn.Module.to(net, torch.float64)
        found = net(torch.from_numpy(inputs.CLIP_TOKENS), images)
    return {
        "images": found.image_embeds.numpy(),
        "texts": found.text_embeds.numpy(),
        "logits": found.logits_per_image.numpy(),
    }


def autoencoder(dtype=torch.float64):
    net = stable_diffusion_part("vae", inputs.AUTOENCODER, dtype)
    with torch.no_grad():
        found = net.encode(as_torch(inputs.images(51, 2, 32, 24, 3), dtype)).latent_dist
        decoded = net.decode(as_torch(inputs.normal(52, 2, 4, 3, 4), dtype)).sample
    return {
        "mean": as_images(found.mean),
        "log_variance": as_images(found.logvar),
        "decoded": as_images(decoded),
    }


def conditional_noise(config, dtype=torch.float64):
    net = stable_diffusion_part("unet", config, dtype)
    xt = as_torch(inputs.normal(53, len(inputs.TIMES), 16, 8, 4), dtype)
    text = as_torch(inputs.normal(54, len(inputs.TIMES), 7, config["cross_attention_dim"]), dtype)
    with torch.no_grad():
        return {"output": as_images(net(xt, torch.from_numpy(inputs.TIMES), text).sample)}


def text_to_image(prediction):
    net = stable_diffusion_part("unet", inputs.GUIDED["unet"])
    vae = stable_diffusion_part("vae", inputs.AUTOENCODER)
    noise = scheduler(
        diffusers.DDIMScheduler, "scaled_linear",
        beta_start=0.00085, beta_end=0.012, prediction_type=prediction,
        timestep_spacing="trailing", clip_sample=False,
    )  # fmt: skip
    noise.set_timesteps(inputs.GUIDED_STEPS)
    text, negative = torch.from_numpy(
        text_embeddings(inputs.GUIDED["text_encoder"])["embeddings"]
    ).split(1)
    x = as_torch(inputs.normal(55, 1, 8, 8, 4))
    with torch.no_grad():
        for t in noise.timesteps:
            away, given = (net(x, t, cond).sample for cond in (negative, text))
            x = noise.step(away + inputs.GUIDANCE * (given - away), t, x).prev_sample
        return {"image": as_images(vae.decode(x / inputs.SCALING).sample)}


REFERENCE = {
    **{f"unet/{n}": functools.partial(forward, config) for n, config in inputs.UNETS.items()},
    "class_conditional/unet": functools.partial(forward, inputs.CLASS_UNET),
    **{f"dit/{n}": functools.partial(dit_noise, config) for n, config in inputs.DITS.items()},
    "loss": losses,
    **{f"gradients/{n}": functools.partial(gradients, n) for n in inputs.GRADIENTS},
    "gradients/dit": functools.partial(dit_gradients, inputs.DITS["classes"]),
    **{f"schedule/{n}": functools.partial(schedule, n) for n in SCHEDULES},
    "weights": all_exact_weights,
    **{
        f"sampler/{n}": functools.partial(sampler_steps, cases)
        for n, cases in inputs.SAMPLERS.items()
    },
    "sampler/ddim_50_images": ddim_images,
    **{
        f"posterior/{part}": functools.partial(checkpoint_moments, part)
        for part in ("mean", "variance")
    },
    "vdu/loss": vdu_loss,
    "vdu/gradients": vdu_gradients,
    **{
        f"vdu/100_steps/{part}": lambda part=part: vdu_run()[part]
        for part in ("losses", "parameters", "update")
    },
    **{
        f"stable_diffusion/{part}_{version}": functools.partial(function, config[part])
        for part, function in (("text_encoder", text_embeddings), ("unet", conditional_noise))
        for version, config in inputs.STABLE_DIFFUSION.items()
    },
    **{
        f"stable_diffusion/image_{name}": functools.partial(text_to_image, prediction)
        for name, prediction in inputs.PREDICTIONS.items()
    },
    "stable_diffusion/vae": autoencoder,
    "clip": clip_similarity,
    "inception": inception_features,
    "frechet": frechet_distances,
}
