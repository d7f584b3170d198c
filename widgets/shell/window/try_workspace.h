// Try it: the page with a prompt and its completions, beside the perplexity.
#pragma once

#include "shell/window/workspace.h"

namespace espalier
{

class MeasureWorkspace;
class TryPanel;

class TryWorkspace final : public Workspace
{
    Q_OBJECT
public:
    TryWorkspace(const WindowContext& context, MeasureWorkspace* beside, QObject* parent);

    TryPanel* panel() const { return m_panel; }
    QWidget* firstControl() const;

    void updateActions() override;
    void show() override;
    void addToView(Json& view) const override;
    void restoreView(const Json& view) override;
    QString helpPage(const QWidget* focus) const override;

private:
    void open();
    void complete();
    void refresh();
    void showSpeed();

    MeasureWorkspace* m_measure;
    TryPanel* m_panel = nullptr;
    int m_page = 0;
};

}  // namespace espalier
