#include "recover/recover_methods.h"

namespace espalier
{

MethodInfo leastSquaresInfo()
{
    MethodInfo info;
    info.id = "least-squares";
    info.title = "Mend by least squares";
    info.slot = Slot::Recover;
    info.help =
        "Layer after layer, the down projections of the experts that stay are refitted in closed form so that the layer gives what the "
        "dense model gave. No gradient, nothing to pay at run time, shapes stay as they are.";
    info.params = {
        {.key = "ridge",
         .type = ParamType::Number,
         .defaultValue = 1e-2,
         .low = 1e-9,
         .high = 1e9,
         .choices = {},
         .unit = {},
         .help = "How strongly the weights are held to the original ones: times the mean diagonal of an expert's moments."},
        {.key = "sweeps",
         .type = ParamType::Integer,
         .defaultValue = 3,
         .low = 1,
         .high = 100,
         .choices = {},
         .unit = {},
         .help = "Times that all experts are gone through."},
        {.key = "target",
         .type = ParamType::Choice,
         .defaultValue = "dense",
         .choices = {"dense", "function"},
         .unit = {},
         .help = "What a layer is to give: the dense model's hidden state (errors of earlier layers are mended too), or what the dense "
                 "layer makes of the compressed model's input."},
        {.key = "shared",
         .type = ParamType::Switch,
         .defaultValue = true,
         .choices = {},
         .unit = {},
         .help = "Refit the down projection of the shared experts as well, where there are some."},
        {.key = "attention",
         .type = ParamType::Switch,
         .defaultValue = true,
         .choices = {},
         .unit = {},
         .help = "Refit attention's output projection as well, towards the dense model's residual stream there."},
    };
    info.source = "ridge regression on the layer's output, Gauss-Seidel over experts";
    info.runsModel = true;
    info.answers = {Answer::Values};
    return info;
}

}  // namespace espalier
