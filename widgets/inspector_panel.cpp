#include "inspector_panel.h"
