// A plan whose factors, constants or stored numbers are not here is told once, with the ways out; it stays open and can be edited.
#pragma once

#include "shell/window/workspace.h"

namespace espalier
{

class MeasureWorkspace;

class MissingProfiles final : public Workspace
{
    Q_OBJECT
public:
    MissingProfiles(const WindowContext& context, MeasureWorkspace* measure, QObject* parent);

    void forget() override;
    void show() override;

private:
    void tellOfFactors();
    void tellOfConstants();
    void tellOfValues();
    void askForValues();

    MeasureWorkspace* m_measure;
    QString m_factors;    // which refusal is told; empty: none
    QString m_constants;  // likewise
    QString m_values;     // the files that are told
};

}  // namespace espalier
