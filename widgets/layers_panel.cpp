#include "layers_panel.h"
