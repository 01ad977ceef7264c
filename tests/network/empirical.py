"""A network's own tangent kernel from all gradients at once: slow, in much memory, for checking."""

import torch


def empirical_ntk(network, x1, x2=None):
    """Return <grad f(x), grad f(x')> over trained parameters, (n1, n2), of a network of one output.

    Computed where the network lies and in its precision; by default `x2` is `x1`.
    """
    trained, fixed = {}, {}
    for name, parameter in network.named_parameters():
        (trained if parameter.requires_grad else fixed)[name] = parameter.detach()

    def output(parameters, image):
        outputs = torch.func.functional_call(network, (parameters, fixed), (image[None],))
        return outputs[0, 0]

    def flat_gradients(images, name):
        x = network.to_tensor(images, name).to(network.dense.weight)
        gradients = torch.func.vmap(torch.func.grad(output), (None, 0))(trained, x)
        return [gradient.flatten(1) for gradient in gradients.values()]

    gradients1 = flat_gradients(x1, "x1")
    gradients2 = gradients1 if x2 is None else flat_gradients(x2, "x2")
    kernel = sum(g1 @ g2.T for g1, g2 in zip(gradients1, gradients2, strict=True))
    return kernel.cpu().numpy()
